"""Which model a daemon serves, and how it comes to serve another one."""
