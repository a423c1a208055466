"""The only folder that knows ESPnet: model families behind one small interface."""
