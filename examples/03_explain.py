"""Where does a forest of digits look? 257 questions, where no gradient exists, beside RISE with four times as many."""

import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

import onlyforward as of

torch.set_num_threads(1)
data = load_digits()
closed = RandomForestClassifier(100, random_state=0).fit(data.data / 16, data.target)  # no gradient exists
oracle = of.Oracle.from_sklearn(closed)  # anything that answers rows: a function, an ONNX file, an endpoint

x = torch.tensor(data.images[3] / 16, dtype=torch.float32)[None]  # one image [1, 8, 8] of a three
seen = of.Saliency(oracle, kind="presence", baseline="zero").attribute(x, target=3, budget=257)
rise = of.peers.Rise(oracle, baseline="zero").attribute(x, target=3, budget=1024)

for name, values in (("ours, 257 questions", seen.map), ("RISE, 1024 questions", rise)):
    down = of.metrics.deletion(oracle, x, values, 3, baseline="zero")
    up = of.metrics.insertion(oracle, x, values, 3, baseline="zero")
    print(f"{name}: deletion {float(down):.3f} (lower is better), insertion {float(up):.3f} (higher is better)")

shades = " .:-=+*#"
for row in (seen.map.clamp(min=0) / seen.map.max() * (len(shades) - 1)).round().int().tolist():
    print("".join(shades[value] for value in row))
print(f"sure to a cosine of about {seen.full_cosine_estimate:.2f} after {seen.queries} questions")
