"""From held-out quantiles to thresholds, a certificate, and tables on the test data."""

EVALUATED = [
    "channels",
    "intensity",
    "tokens",
    "scans",
    "widths",
    "units",
    "reliability",
    "pit",
    "reference",
    "ensemble",
]


rule survey:
    input:
        manifest=f"{R}/pairs.json",
        average=f"{R}/ensemble/average.json",
        token=f"{R}/ensemble/heldout.zarr/zarr.json",
        label=f"{R}/ensemble/label.json",
        tokens=f"{R}/latents/tokens.npz",
        latents=of_members("latents.npz"),
    output:
        rules=f"{R}/calibration/rules.npz",
    log:
        f"{LOGS}/survey.log",
    benchmark:
        f"{BENCHMARKS}/survey.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("survey"),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        heldout=placed(f"{R}/ensemble/heldout.zarr"),
        labels=placed(f"{R}/ensemble/tokens.zarr"),
        spec=spec("survey"),
    shell:
        "python -m behindthenoise survey --pairs {params.pairs:q} --heldout {params.heldout:q} --labels {params.labels:q}"
        " --tokens {input.tokens:q} --latents {input.latents:q} --rules {output.rules:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"


rule score:
    input:
        manifest=f"{R}/pairs.json",
        average=f"{R}/ensemble/average.json",
        label=f"{R}/ensemble/label.json",
        rules=f"{R}/calibration/rules.npz",
    output:
        scores=f"{R}/calibration/shares/{{scatteritem}}.npz",
    log:
        f"{LOGS}/score/{{scatteritem}}.log",
    benchmark:
        f"{BENCHMARKS}/score/{{scatteritem}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("score"),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        heldout=placed(f"{R}/ensemble/heldout.zarr"),
        labels=placed(f"{R}/ensemble/tokens.zarr"),
        spec=spec("score"),
    shell:
        "python -m behindthenoise score --share {wildcards.scatteritem} --pairs {params.pairs:q} --heldout {params.heldout:q}"
        " --labels {params.labels:q} --rules {input.rules:q} --scores {output.scores:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"


rule calibrate:
    input:
        manifest=f"{R}/pairs.json",
        average=f"{R}/ensemble/average.json",
        label=f"{R}/ensemble/label.json",
        shares=gather.score(f"{R}/calibration/shares/{{scatteritem}}.npz"),
    output:
        scores=f"{R}/calibration/scores.npz",
        thresholds=f"{R}/calibration/thresholds.json",
        certificate=report(f"{R}/calibration/certificate.json", category="Calibration"),
        levels=report(f"{R}/calibration/levels.csv", category="Calibration"),
    log:
        f"{LOGS}/calibrate.log",
    benchmark:
        f"{BENCHMARKS}/calibrate.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("calibrate"),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        heldout=placed(f"{R}/ensemble/heldout.zarr"),
        labels=placed(f"{R}/ensemble/tokens.zarr"),
        spec=spec("calibrate"),
    shell:
        "python -m behindthenoise calibrate --pairs {params.pairs:q} --heldout {params.heldout:q} --labels {params.labels:q}"
        " --shares {input.shares:q} --scores {output.scores:q} --thresholds {output.thresholds:q}"
        " --certificate {output.certificate:q}"
        " --levels {output.levels:q} --spec {params.spec:q} > {log:q} 2>&1"


rule evaluate:
    input:
        manifest=f"{R}/pairs.json",
        average=f"{R}/ensemble/average.json",
        label=f"{R}/ensemble/label.json",
        scores=f"{R}/calibration/scores.npz",
        thresholds=f"{R}/calibration/thresholds.json",
    output:
        manifest=f"{R}/evaluation/evaluate.json",
        tables=report(expand(f"{R}/evaluation/{{table}}.csv", table=EVALUATED), category="Evaluation"),
    log:
        f"{LOGS}/evaluate.log",
    benchmark:
        f"{BENCHMARKS}/evaluate.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("evaluate"),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        heldout=placed(f"{R}/ensemble/heldout.zarr"),
        labels=placed(f"{R}/ensemble/tokens.zarr"),
        members=placed(of_members("heldout.zarr")),
        folder=placed(f"{R}/evaluation"),
        spec=spec("evaluate"),
    shell:
        "python -m behindthenoise evaluate --pairs {params.pairs:q} --heldout {params.heldout:q} --labels {params.labels:q}"
        " --scores {input.scores:q} --thresholds {input.thresholds:q} --members {params.members:q} --folder {params.folder:q}"
        " --manifest {output.manifest:q} --spec {params.spec:q} > {log:q} 2>&1"
