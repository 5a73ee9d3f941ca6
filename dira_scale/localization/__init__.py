"""Where a network that was fine-tuned on labels sees them: boxes from Grad-CAM against boxes drawn by hand."""
