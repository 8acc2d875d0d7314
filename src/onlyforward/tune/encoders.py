"""Closed encoders for alignment: images by a pretrained network's last features, texts by TF-IDF and an SVD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onlyforward.core.checks import check_choice, require
from onlyforward.core.errors import UsageError
from onlyforward.data.pretrained import load_pretrained
from onlyforward.data.sets import load
from onlyforward.run.userfile import user_function

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PHRASES = {
    "airplane": ("airplane", "jet", "aircraft in the sky"),
    "automobile": ("automobile", "car", "vehicle with four wheels"),
    "bird": ("bird", "bird with wings and feathers", "small singing bird"),
    "cat": ("cat", "pet cat", "cat with whiskers"),
    "deer": ("deer", "deer in the forest", "wild deer with antlers"),
    "dog": ("dog", "puppy dog", "dog that barks"),
    "frog": ("frog", "green frog", "frog in a pond"),
    "horse": ("horse", "horse with a rider", "running horse"),
    "ship": ("ship", "boat", "ship on the sea"),
    "truck": ("truck", "lorry truck", "heavy truck on the road"),
}
TRAIN_TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image that shows a {}", "this is a {}")
TEST_TEMPLATES = ("here we see a {}", "a small snapshot of one {}", "the thing in front of us is a {}")
"""Sentences of the classes; the test templates are never seen in fitting."""
DIMENSION = 64


def sentences(templates: Sequence[str]) -> tuple[list[str], Tensor]:
    """Sentences and the class of each [m]."""
    texts, classes = [], []
    for number, name in enumerate(CLASSES):
        for phrase in PHRASES[name]:
            for template in templates:
                texts.append(template.format(phrase))
                classes.append(number)
    return texts, torch.tensor(classes)


@dataclass(frozen=True)
class Lsa:
    """TF-IDF and truncated SVD, fitted once on AG News, SST-2 and the class sentences.

    Attributes:
        vectoriser: of scikit-learn.
        projection: of scikit-learn.
    """

    vectoriser: Any
    projection: Any

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n, 64]."""
        found = self.projection.transform(self.vectoriser.transform(list(texts)))
        return F.normalize(torch.from_numpy(found.copy()), dim=1)


def lsa() -> Lsa:
    """The text encoder; the class sentences count as often as a hundredth of the corpus, so that their words matter."""
    text = require("sklearn.feature_extraction.text", "data")
    decomposition = require("sklearn.decomposition", "data")
    corpus = [t for name in ("ag_news", "sst2") for t in load(name).texts_train]
    own = sentences(TRAIN_TEMPLATES)[0] + sentences(TEST_TEMPLATES)[0]
    vectoriser = text.TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=20_000, stop_words="english")
    matrix = vectoriser.fit_transform([*corpus, *own * 12])
    projection = decomposition.TruncatedSVD(DIMENSION, random_state=0, n_iter=3).fit(matrix)
    return Lsa(vectoriser, projection)


class Body(nn.Module):
    """A network without its last linear layer: images [n, 3, h, w] -> features [n, d]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        path = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]
        parent = model.get_submodule(path.rpartition(".")[0]) if "." in path else model
        setattr(parent, path.rpartition(".")[2], nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, d]."""
        return self.model(x).flatten(1)


def image_encoder(name: str) -> Callable[[Tensor], Tensor]:
    """resnet20, vit, FILE.onnx (its scores) or file.py:factory: images in 0..1 -> vectors [n, d].

    Raises:
        UsageError: no such encoder.
    """
    if name.endswith(".onnx"):
        from onlyforward.run.onnx import OnnxModel
        from onlyforward.tune.models import Prepared

        model = OnnxModel(Path(name))
        prepared = Prepared(model, model.channels, model.size, "0..255")
        return lambda x: torch.from_numpy(prepared(x))
    if ":" in name:
        made = user_function(name)()
        if not callable(made):
            raise UsageError(f"{name} gives no function", "Return a module or function: images -> vectors")
        return made  # type: ignore[no-any-return]
    known = {"resnet20": "resnet20", "vit": "vit-d128-l6"}
    body = Body(load_pretrained(known[check_choice(name, known, name="image encoder")])).requires_grad_(False).eval()

    def encode(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return body(x)

    return encode


def text_encoder(name: str) -> Callable[[Sequence[str]], Tensor]:
    """The encoder lsa, or file.py:factory: a list of texts -> vectors [n, d]."""
    if ":" in name:
        return user_function(name)()  # type: ignore[no-any-return]
    check_choice(name, ("lsa",), name="text encoder")
    return lsa()
