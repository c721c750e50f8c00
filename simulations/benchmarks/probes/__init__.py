"""Scripts that run as whole processes and are measured from outside."""
