"""On a machine with a CUDA GPU: do the tests that need one pass, and how fast is a step?"""
