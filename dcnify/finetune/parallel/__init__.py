"""Several processes: Accelerate, DDP and FSDP."""
