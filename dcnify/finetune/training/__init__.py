"""What one stage trains with: data loaders, losses, optimizer, schedules."""
