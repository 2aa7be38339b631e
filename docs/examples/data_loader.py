"""Batches of crops, blurred and sharp, for any training loop: `python data_loader.py PHOTOS`.

The stream is a function of the configuration alone: the same seed gives the same crops, from any
step on, with any number of worker processes.
"""

import sys

from blursynth.recipes import RECIPES
from freqdiff.data import DataConfig, PairBlocks
from freqdiff.stream import batches

config = DataConfig(crop=128, pairs_per_block=16, recipe=RECIPES["physics_full"], seed=3)
stream = PairBlocks(sys.argv[1], config)
for step, pairs in enumerate(batches(stream, batch=8, first_step=0, workers=0)):
    # Here: loss = criterion(network(pairs.blurred), pairs.sharp); loss.backward(); ...
    error = (pairs.blurred - pairs.sharp).square().mean()
    print(f"step {step}: {tuple(pairs.blurred.shape)}, mean squared difference {error:.5f}")
    if step == 2:
        break
