"""What slots and tokens hold: linear probes for attributes, a map of slots, statistics of tokens.

Introduced in notebooks/backbone_comparison.ipynb.
"""

from itertools import product

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

ATTRIBUTES = ("material", "shape", "color", "size")
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # of the probe, scikit-learn's C


def under_truth(maps: Tensor, truth: Tensor, found: pd.DataFrame) -> NDArray[np.float64]:
    """The mean of maps `[n, C, h, w]` (tokens on their grid, or pictures) under each object's true mask, `[m, C]`.

    Where the grid is coarser than the truth `[n, H, W]`, a place counts by how much of it the object covers.
    """
    rows = []
    for image, i in zip(found.image, found["id"], strict=True):
        share = adaptive_avg_pool2d((truth[image] == i)[None].double(), maps.shape[-2:])
        rows.append((maps[image].double() * share).sum((1, 2)) / share.sum())
    return torch.stack(rows).cpu().numpy()


def probes(
    inputs: dict[str, tuple[NDArray, NDArray]], train: pd.DataFrame, test: pd.DataFrame
) -> dict[str, dict[str, float | str]]:
    """A logistic regression on standardised vectors of each input for each attribute, by "<input> <attribute>".

    Its strength is chosen by three-fold cross-validation in which a scene is never split.

    Args:
        inputs: by name, vectors `[m, D]` of the objects in the rows of `train`, and of those in `test`.

    Returns:
        Beside both names `balanced`, the mean recall over classes on the test scenes, and `chance`, what knowing
        nothing gives.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, tol=1e-3))
    grid = {"logisticregression__C": STRENGTHS}
    found = {}
    for (name, (x, y)), attribute in product(inputs.items(), ATTRIBUTES):
        search = GridSearchCV(model, grid, scoring="balanced_accuracy", cv=GroupKFold(3))
        guess = search.fit(x, train[attribute], groups=train.scene).predict(y)
        right = float(balanced_accuracy_score(test[attribute], guess))
        row = {"input": name, "attribute": attribute, "balanced": right, "chance": 1 / test[attribute].nunique()}
        found[f"{name} {attribute}"] = row
    return found


def embed(vectors: NDArray) -> NDArray[np.float64]:
    """Vectors `[m, D]`, standardised, on a plane `[m, 2]` by t-SNE (van der Maaten and Hinton 2008), to look at."""
    scaled = StandardScaler().fit_transform(vectors)
    return TSNE(perplexity=min(30, (len(vectors) - 1) / 3), init="pca", random_state=0).fit_transform(scaled)


def token_statistics(tokens: Tensor) -> dict[str, float]:
    """What distinguishes one backbone's tokens `[n, N, C]` from another's, before anything is trained on them.

    Returns:
        `mean` and `sd` of all values; `least`, `median` and `most` of the channels' sd; `effective_rank`, the
        exponential of the entropy of the covariance's normalised eigenvalues (Roy and Vetterli 2007): C if all
        directions vary alike, 1 if one alone does; `cosine`, the mean cosine between different tokens of one image.
    """
    flat = tokens.flatten(0, 1).double()
    spread = flat.std(0)
    values = torch.linalg.eigvalsh(torch.cov(flat.T).reshape(flat.shape[1], -1)).clamp(min=0)
    unit = normalize(tokens.double(), dim=-1)
    count = tokens.shape[1]
    alike = (unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))) / (count * (count - 1))
    found = {"mean": flat.mean(), "sd": flat.std()}
    found |= {"least": spread.min(), "median": spread.median(), "most": spread.max()}
    found |= {"effective_rank": torch.special.entr(values / values.sum()).sum().exp(), "cosine": alike.mean()}
    return {k: float(v) for k, v in found.items()}
