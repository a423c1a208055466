"""The parts of stage 8."""
