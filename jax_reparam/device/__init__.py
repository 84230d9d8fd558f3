"""What a device wants beside the model: frontend, waveform model, firmware."""
