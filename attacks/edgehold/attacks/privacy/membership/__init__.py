"""Membership inference: was this record among those a model was trained on?

`scores` makes one number per record of what a model says about it, `roc` judges such numbers, `population` deals records to
models, `train` trains one through the engine, `judge` puts target and shadow models together, `run` plays a study and keeps
every model as it finishes.
"""
