"""Who may speak: the fleet's keys, how devices join, how each request proves its sender, and the audit trail."""
