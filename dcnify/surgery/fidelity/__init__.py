"""How close a converted model stays to the original, and the images to measure it on."""
