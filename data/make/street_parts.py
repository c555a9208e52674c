"""What a street is put together from: class indices, parts, and the materials that many of them share."""

from street_mesh import Mesh
from street_textures import Material

SKY, BUILDING, FENCE, OTHER, PERSON, POLE, LINE, ROAD, SIDEWALK, GREEN, CAR, WALL, SIGN, ANOMALY = range(14)
#: class index, shape, look
Part = tuple[int, Mesh, Material]
Made = tuple[Mesh, Material]  # what the maker of an anomaly gives

PAINT = Material(roughness=0.35, specular=0.5, metallic=0.15, coat=1.0)
GLASS = Material(roughness=0.06, specular=0.8)
MATTE = Material(roughness=0.85, specular=0.25)
SATIN = Material(roughness=0.45, specular=0.5)
METAL = Material(roughness=0.4, specular=0.5, metallic=0.6)
LEAVES = Material(roughness=0.7, specular=0.25)

# of anomalies
FUR = Material(roughness=0.95, specular=0.15)
CLOTH = Material(roughness=0.9, specular=0.2)
WOOD = Material(roughness=0.5, specular=0.4)
GLOSS = Material(roughness=0.15, specular=0.6, coat=0.6)
STONE = Material(roughness=0.8, specular=0.3)
BLACK, WHITE = (0.012, 0.012, 0.013), (0.72, 0.7, 0.66)


def pick(rng, *options):
    """One of the options."""
    return options[rng.integers(len(options))]
