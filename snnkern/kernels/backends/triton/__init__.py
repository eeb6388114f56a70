"""The backend for NVIDIA GPUs that is written in Triton."""
