"""A rough category of the scene, from the light that the camera saw: a heuristic, not a classifier.

| category  | rule, the first that fits                                                        |
| --------- | -------------------------------------------------------------------------------- |
| close-up  | focus nearer than 20 focal lengths or 0.4 m                                      |
| night     | exposure value below 4 (street lamps), or below 8 and a photo darker than 0.15   |
| indoor    | exposure value below 9 (lit rooms are 5 to 8)                                    |
| outdoor   | all others                                                                       |

Photos that were sorted into folders are of the category that their folder names.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from blursynth.camera import Camera


def scene_category(source: str, camera: Camera, brightness: float) -> str:
    """Category of a photo.

    Args:
        source: path of the photo within its folder, with "/"; its first sub-folder wins.
        camera: settings of the exposure.
        brightness: mean luma of the sRGB values in [0, 1].
    """
    folders = PurePosixPath(source).parts[:-1]
    if folders:
        return folders[0]
    light = camera.exposure_value()
    if camera.focus_distance_m < max(0.4, 0.02 * camera.focal_mm):
        return "close-up"
    if light < 4 or (light < 8 and brightness < 0.15):
        return "night"
    return "indoor" if light < 9 else "outdoor"
