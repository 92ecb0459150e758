"""The parts of one training stage: data loaders, losses, optimizer, schedules."""
