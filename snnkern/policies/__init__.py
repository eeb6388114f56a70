"""What acts: dense actors, spiking actors, their files, and readers of other libraries' checkpoints."""
