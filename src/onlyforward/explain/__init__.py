"""Explain a closed model: where did it look, and how sure is that picture."""

from onlyforward.run.application import Application

APPLICATION = Application(
    name="explain",
    sentence="Explain a closed model: saliency maps with error bars from questions alone.",
    options={"": "onlyforward.explain.command:Explain"},
    run="onlyforward.explain.command:run",
    demo="onlyforward.explain.command:DEMO",
)
