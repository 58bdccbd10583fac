"""Single networks over a grid of settings, judged on validation units of the training data; no part of `all`."""


use rule wire as sweep_wire with:
    output:
        graph=f"{R}/sweep/{{point}}/{{member}}/graph.json",
    log:
        f"{LOGS}/sweep/{{point}}/{{member}}/wire.log",
    benchmark:
        f"{BENCHMARKS}/sweep/{{point}}/{{member}}/wire.tsv"
    localrule: True
    params:
        spec=of_point("wire"),


use rule train as sweep_train with:
    input:
        manifest=f"{R}/pairs.json",
        token=f"{R}/pairs.zarr/zarr.json",
        graph=f"{R}/sweep/{{point}}/{{member}}/graph.json",
    output:
        manifest=f"{R}/sweep/{{point}}/{{member}}/train.json",
        weights=f"{R}/sweep/{{point}}/{{member}}/weights.safetensors",
        history=f"{R}/sweep/{{point}}/{{member}}/history.csv",
    log:
        f"{LOGS}/sweep/{{point}}/{{member}}/train.log",
    benchmark:
        f"{BENCHMARKS}/sweep/{{point}}/{{member}}/train.tsv"
    params:
        spec=of_point("train"),
        check=uncompared(of_point("check")),


rule sweep:
    input:
        records=of_sweep,
    output:
        table=f"{R}/sweep/table.csv",
        figure=f"{R}/sweep/sweep.svg",
        picture=report(f"{R}/sweep/sweep.png", category="Sweep"),
    log:
        f"{LOGS}/sweep.log",
    benchmark:
        f"{BENCHMARKS}/sweep.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("sweep"),
    params:
        spec=spec("sweep"),
    shell:
        "python -m behindthenoise sweep --records {input.records:q} --table {output.table:q} --figure {output.figure:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"
