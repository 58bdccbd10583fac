"""Where to measure again: regions beyond a limit or of wide intervals, in every volume; no network runs."""


rule regions:
    input:
        manifest=f"{R}/pairs.json",
        average=f"{R}/ensemble/average.json",
        label=f"{R}/ensemble/label.json",
        rules=f"{R}/calibration/rules.npz",
        thresholds=f"{R}/calibration/thresholds.json",
        finish=f"{R}/volumes/{{volume}}/finish.json",
        geometry=f"{R}/volumes/{{volume}}/geometry.json",
    output:
        manifest=f"{R}/volumes/{{volume}}/regions/{{target}}.json",
        table=f"{R}/volumes/{{volume}}/regions/{{target}}.csv",
        outlines=f"{R}/volumes/{{volume}}/regions/{{target}}.geojson",
        view=f"{R}/volumes/{{volume}}/regions/{{target}}.npz",
        token=f"{R}/volumes/{{volume}}/regions/{{target}}.zarr/zarr.json",
    log:
        f"{LOGS}/regions/{{volume}}/{{target}}.log",
    benchmark:
        f"{BENCHMARKS}/regions/{{volume}}/{{target}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: PASS_THREADS
    resources:
        **needs("regions"),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        heldout=placed(f"{R}/ensemble/heldout.zarr"),
        labels=placed(f"{R}/ensemble/tokens.zarr"),
        finished=placed(f"{R}/volumes/{{volume}}.ome.zarr"),
        store=placed(f"{R}/volumes/{{volume}}/regions/{{target}}.zarr"),
        spec=lambda wildcards: spec("regions", target=wildcards.target),
    shell:
        "python -m behindthenoise regions --pairs {params.pairs:q} --heldout {params.heldout:q} --labels {params.labels:q}"
        " --rules {input.rules:q} --thresholds {input.thresholds:q} --finished {params.finished:q} --geometry {input.geometry:q}"
        " --store {params.store:q}"
        " --manifest {output.manifest:q} --table {output.table:q} --outlines {output.outlines:q} --view {output.view:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"


rule overlay:
    input:
        regions=f"{R}/volumes/{{volume}}/regions/{{target}}.json",
        view=f"{R}/volumes/{{volume}}/regions/{{target}}.npz",
    output:
        picture=report(f"{R}/volumes/{{volume}}/regions/{{target}}.png", category="Volumes", subcategory="{volume}"),
    log:
        f"{LOGS}/overlay/{{volume}}/{{target}}.log",
    benchmark:
        f"{BENCHMARKS}/overlay/{{volume}}/{{target}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("overlay"),
    params:
        spec=spec("overlay"),
    shell:
        "python -m behindthenoise overlay --regions {input.regions:q} --view {input.view:q} --picture {output.picture:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"
