"""Small images in colour, of four classes."""

from guard.data.spec import ImageSpec

SPEC = ImageSpec(
    channels=3,
    image_size=8,
    num_classes=4,
    mean=(0.3, 0.4, 0.5),
    std=(0.2, 0.25, 0.3),
    class_names=tuple("abcd"),
)
