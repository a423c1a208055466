"""Tables, figures and the report page, made from stored results alone."""
