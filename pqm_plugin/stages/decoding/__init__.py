"""The parts of stage 6."""
