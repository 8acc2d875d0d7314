"""Train networks from forward runs alone."""

from onlyforward.run.application import Application

APPLICATION = Application(
    name="train",
    sentence="Train a network from forward runs alone: the likelihood ratio beside backpropagation and its rivals.",
    options={
        "fit": "onlyforward.train.command:Fit",
    },
    run="onlyforward.train.command:run",
    demo="onlyforward.train.command:DEMO",
    benches={},
)
