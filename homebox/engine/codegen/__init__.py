"""From linear IR to machine code: LLVM IR, what a CPU can run, compiled objects on disk."""
