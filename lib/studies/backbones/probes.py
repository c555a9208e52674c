"""What slots and tokens hold: linear probes for attributes, a map of slots, statistics of tokens.

Introduced in notebooks/backbone_comparison.ipynb.
"""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from lib.metrics.intervals import bootstrap

ATTRIBUTES = ("material", "shape", "color", "size")
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # of the probe, scikit-learn's C


def under_slots(slots: Tensor, found: pd.DataFrame) -> NDArray[np.float64]:
    """The slot matched to each object, `[m, D]`, of a table of `materials.judge` in which every object has one.

    Args:
        slots: `[n, K, D]`.
    """
    return slots[found.image.tolist(), found.matched.tolist()].double().cpu().numpy()


def under_truth(maps: Tensor, truth: Tensor, found: pd.DataFrame) -> NDArray[np.float64]:
    """The mean of maps `[n, C, h, w]` (tokens on their grid, or pictures) under each object's true mask, `[m, C]`.

    Where the grid is coarser than the truth `[n, H, W]`, a place counts by how much of it the object covers.
    """
    rows = []
    for image, i in zip(found.image, found["id"], strict=True):
        share = adaptive_avg_pool2d((truth[image] == i)[None].double(), maps.shape[-2:])
        rows.append((maps[image].double() * share).sum((1, 2)) / share.sum())
    return torch.stack(rows).cpu().numpy()


def probe(
    train: NDArray, labels: NDArray, groups: NDArray, test: NDArray, expected: NDArray, test_groups: NDArray
) -> dict[str, float]:
    """A logistic regression on standardised vectors: fitted on some scenes, scored on others.

    Its strength is chosen by three-fold cross-validation in which a scene is never split.

    Args:
        train, test: vectors `[m, D]`; labels, expected: what to read from them; groups, test_groups: their scenes.

    Returns:
        `accuracy` with `low` and `high` (95 %, test scenes drawn), `balanced` (mean recall over classes); and what
        knowing nothing gives: `majority` (the commonest training label on the test set) and `chance` of `balanced`.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, tol=1e-3))
    grid = {"logisticregression__C": STRENGTHS}
    search = GridSearchCV(model, grid, scoring="balanced_accuracy", cv=GroupKFold(3))
    guess = search.fit(train, labels, groups=groups).predict(test)
    names, counts = np.unique(labels, return_counts=True)
    scenes, where = np.unique(test_groups, return_inverse=True)
    right, total = np.bincount(where, guess == expected), np.bincount(where)
    low, high = bootstrap(lambda drawn: (drawn @ right) / (drawn @ total), len(scenes))
    return {
        "accuracy": float(accuracy_score(expected, guess)),
        "low": float(low),
        "high": float(high),
        "balanced": float(balanced_accuracy_score(expected, guess)),
        "majority": float((expected == names[counts.argmax()]).mean()),
        "chance": 1 / len(np.unique(expected)),
    }


def probes(inputs: dict[str, tuple[NDArray, NDArray]], train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """`probe` of every attribute from every input, (train, test) vectors of the objects in the tables' rows."""
    rows = [
        {"input": name, "attribute": a}
        | probe(x, train[a].to_numpy(), train.scene.to_numpy(), y, test[a].to_numpy(), test.scene.to_numpy())
        for name, (x, y) in inputs.items()
        for a in ATTRIBUTES
    ]
    return pd.DataFrame(rows)


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
    found = {
        "mean": flat.mean(),
        "sd": flat.std(),
        "least": spread.min(),
        "median": spread.median(),
        "most": spread.max(),
        "effective_rank": torch.special.entr(values / values.sum()).sum().exp(),
        "cosine": alike.mean(),
    }
    return {k: float(v) for k, v in found.items()}
