"""Model families behind one interface; the only folder that imports ESPnet."""
