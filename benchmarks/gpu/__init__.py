"""What a machine with a CUDA GPU is asked: do the tests that need one pass, and how fast is a step on it?"""
