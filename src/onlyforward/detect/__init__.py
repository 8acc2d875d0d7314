"""Detect anomalies with small quantum circuits: trained in seconds, ready for a noisy chip, beside classical peers."""

from onlyforward.run.application import Application

APPLICATION = Application(
    name="detect",
    sentence="Detect anomalies with a small quantum circuit: fit, score, calibrate and run it on a noisy device.",
    options={
        "fit": "onlyforward.detect.command:Fit",
        "score": "onlyforward.detect.command:Score",
    },
    run="onlyforward.detect.command:run",
    demo="onlyforward.detect.command:DEMO",
)
