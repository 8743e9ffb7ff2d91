"""N modules as one."""
