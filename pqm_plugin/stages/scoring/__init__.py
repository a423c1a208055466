"""The parts of stage 7."""
