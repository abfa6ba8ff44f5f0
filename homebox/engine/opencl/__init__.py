"""OpenCL devices: found, probed, their memory, builds and launches."""
