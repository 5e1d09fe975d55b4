"""`manage doctor`: what is wrong with an installation, in plain words, each with the next step.

It reads, and writes one small file that it removes again. It never prints a secret.
"""
