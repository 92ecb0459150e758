"""Which architecture wrote this weight file?"""
