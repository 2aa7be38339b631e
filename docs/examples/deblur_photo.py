"""Deblurs one photo: `python deblur_photo.py blurred.jpg sharp.jpg`."""

import sys

import freqdiff

source, target = sys.argv[1:3]
details = freqdiff.deblur(source, return_details=True)
details.image.save(target)
print(f"{target}: {details.seconds:.1f} s, {'; '.join(details.notes) or 'no notes'}")
if details.check is not None:
    print(f"confidence {details.check.confidence.mean():.2f}")
