"""Explain a closed model: where did it look, and how sure is that picture."""

from onlyforward.run.application import Application, Benchmark

APPLICATION = Application(
    name="explain",
    sentence="Explain a closed model: saliency maps with error bars from questions alone.",
    options={"": "onlyforward.explain.command:Explain"},
    run="onlyforward.explain.command:run",
    demo="onlyforward.explain.command:DEMO",
    benches={
        "saliency": Benchmark(
            "A closed model's map by questions alone, beside the exact gradient, exact Shapley values, RISE and LIME.",
            "onlyforward.explain.command:BenchSaliency",
            "onlyforward.explain.bench.cases:run",
            peers=("captum", "quantus", "shap", "skimage"),
        ),
    },
)
