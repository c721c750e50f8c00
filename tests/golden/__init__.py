"""Files of released formats, and the test that they stay readable."""
