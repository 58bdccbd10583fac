"""Whole fields and volumes: fetched, planned, inferred by several jobs, finished, compared with the calibration data."""


rule fetch:
    input:
        sources=lambda wildcards: source_files(volume_sources(wildcards)),
        pairs=f"{R}/pairs.json",
        token=f"{R}/pairs.zarr/zarr.json",
    output:
        manifest=f"{R}/volumes/{{volume}}/input.json",
        token=f"{R}/volumes/{{volume}}/input.zarr/zarr.json",
    log:
        f"{LOGS}/fetch/{{volume}}.log",
    benchmark:
        f"{BENCHMARKS}/fetch/{{volume}}.tsv"
    # before any training: a volume that must be refused is refused early; where it asked for several threads, trainings of one
    # would always find a free core first
    priority: 1
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("fetch"),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        store=placed(f"{R}/volumes/{{volume}}/input.zarr"),
        sources=lambda wildcards: source_state(volume_sources(wildcards)),
        spec=lambda wildcards: spec("fetch", volume=wildcards.volume),
    shell:
        "python -m behindthenoise fetch --name {wildcards.volume:q} --pairs {params.pairs:q} --store {params.store:q}"
        " --manifest {output.manifest:q} --spec {params.spec:q} > {log:q} 2>&1 && (grep 'warning: ' {log:q} >&2 || true)"


rule place:
    input:
        pairs=f"{R}/pairs.json",
        of_pairs=f"{R}/pairs.zarr/zarr.json",
        # the field's own is known as soon as the pairs are read
        of_volume=lambda wildcards: (
            []
            if wildcards.volume == "field"
            else [f"{R}/volumes/{{volume}}/{file}" for file in ("input.json", "input.zarr/zarr.json")]
        ),
    output:
        geometry=f"{R}/volumes/{{volume}}/geometry.json",
    log:
        f"{LOGS}/place/{{volume}}.log",
    benchmark:
        f"{BENCHMARKS}/place/{{volume}}.tsv"
    # before any training, as `fetch`
    priority: 1
    localrule: True
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("place"),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        volume=placed(f"{R}/volumes/{{volume}}/input.zarr"),
        spec=lambda wildcards: spec("place", volume=wildcards.volume),
    shell:
        "python -m behindthenoise place --name {wildcards.volume:q} --pairs {params.pairs:q} --volume {params.volume:q}"
        " --geometry {output.geometry:q} --spec {params.spec:q} > {log:q} 2>&1 && (grep 'warning: ' {log:q} >&2 || true)"


rule plan:
    input:
        manifest=f"{R}/volumes/{{volume}}/input.json",
        token=f"{R}/volumes/{{volume}}/input.zarr/zarr.json",
        graphs=of_members("graph.json"),
    output:
        # its content differs each time it is made: a store that was laid out anew is filled anew
        token=f"{R}/volumes/{{volume}}/quantiles.zarr/zarr.json",
    log:
        f"{LOGS}/plan/{{volume}}.log",
    benchmark:
        f"{BENCHMARKS}/plan/{{volume}}.tsv"
    # on a cluster, not worth a job
    localrule: True
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("plan"),
    params:
        volume=placed(f"{R}/volumes/{{volume}}/input.zarr"),
        store=placed(f"{R}/volumes/{{volume}}/quantiles.zarr"),
        spec=spec("plan"),
    shell:
        "python -m behindthenoise plan --volume {params.volume:q} --graphs {input.graphs:q} --store {params.store:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"


rule infer:
    input:
        manifest=f"{R}/pairs.json",
        volume=f"{R}/volumes/{{volume}}/input.json",
        token=f"{R}/volumes/{{volume}}/quantiles.zarr/zarr.json",
        projection=f"{R}/latents/projection.npz",
        # It changes with any member. The members' own files, as inputs of every job, would be most of what Snakemake looks at.
        average=f"{R}/ensemble/average.json",
    output:
        manifest=f"{R}/volumes/{{volume}}/jobs/{{scatteritem}}.json",
    log:
        f"{LOGS}/infer/{{volume}}/{{scatteritem}}.log",
    benchmark:
        f"{BENCHMARKS}/infer/{{volume}}/{{scatteritem}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: CONFIG.inference.threads
    resources:
        **needs("infer"),
        gpu=1,
        mem_mb=memory_mb(CONFIG.inference.memory_gb),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        volume=placed(f"{R}/volumes/{{volume}}/input.zarr"),
        store=placed(f"{R}/volumes/{{volume}}/quantiles.zarr"),
        graphs=uncompared(placed(of_members("graph.json"))),
        weights=uncompared(placed(of_members("weights.safetensors"))),
        spec=spec("infer"),
    shell:
        "python -m behindthenoise infer --share {wildcards.scatteritem} --pairs {params.pairs:q} --volume {params.volume:q}"
        " --graphs {params.graphs:q} --weights {params.weights:q} --projection {input.projection:q}"
        " --store {params.store:q} --manifest {output.manifest:q} --spec {params.spec:q} > {log:q} 2>&1"


rule finish:
    input:
        geometry=f"{R}/volumes/{{volume}}/geometry.json",
        token=f"{R}/volumes/{{volume}}/quantiles.zarr/zarr.json",
        jobs=gather.share(f"{R}/volumes/{{{{volume}}}}/jobs/{{scatteritem}}.json"),
        thresholds=f"{R}/calibration/thresholds.json",
        tokens=f"{R}/latents/tokens.npz",
    output:
        manifest=f"{R}/volumes/{{volume}}/finish.json",
        token=f"{R}/volumes/{{volume}}.ome.zarr/zarr.json",
    log:
        f"{LOGS}/finish/{{volume}}.log",
    benchmark:
        f"{BENCHMARKS}/finish/{{volume}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: PASS_THREADS
    resources:
        **needs("finish"),
    params:
        volume=placed(f"{R}/volumes/{{volume}}/input.zarr"),
        quantiles=placed(f"{R}/volumes/{{volume}}/quantiles.zarr"),
        store=placed(f"{R}/volumes/{{volume}}.ome.zarr"),
        spec=spec("finish"),
    shell:
        "python -m behindthenoise finish --volume {params.volume:q} --geometry {input.geometry:q} --quantiles {params.quantiles:q}"
        " --jobs {input.jobs:q} --thresholds {input.thresholds:q} --tokens {input.tokens:q} --store {params.store:q}"
        " --manifest {output.manifest:q} --spec {params.spec:q} > {log:q} 2>&1"


rule compare:
    input:
        manifest=f"{R}/pairs.json",
        average=f"{R}/ensemble/average.json",
        label=f"{R}/ensemble/label.json",
        scores=f"{R}/calibration/scores.npz",
        token=f"{R}/volumes/{{volume}}/quantiles.zarr/zarr.json",
        finish=f"{R}/volumes/{{volume}}/finish.json",
    output:
        shift=f"{R}/volumes/{{volume}}/shift.json",
    log:
        f"{LOGS}/compare/{{volume}}.log",
    benchmark:
        f"{BENCHMARKS}/compare/{{volume}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("compare"),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        heldout=placed(f"{R}/ensemble/heldout.zarr"),
        labels=placed(f"{R}/ensemble/tokens.zarr"),
        quantiles=placed(f"{R}/volumes/{{volume}}/quantiles.zarr"),
        finished=placed(f"{R}/volumes/{{volume}}.ome.zarr"),
        spec=spec("compare"),
    shell:
        "python -m behindthenoise compare --pairs {params.pairs:q} --heldout {params.heldout:q} --labels {params.labels:q}"
        " --scores {input.scores:q} --quantiles {params.quantiles:q} --finished {params.finished:q}"
        " --shift {output.shift:q} --spec {params.spec:q} > {log:q} 2>&1"


rule publish:
    input:
        finish=f"{R}/volumes/{{volume}}/finish.json",
        token=f"{R}/volumes/{{volume}}.ome.zarr/zarr.json",
    output:
        manifest=f"{R}/volumes/{{volume}}/publish.json",
    log:
        f"{LOGS}/publish/{{volume}}.log",
    benchmark:
        f"{BENCHMARKS}/publish/{{volume}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("publish"),
    params:
        store=placed(f"{R}/volumes/{{volume}}.ome.zarr"),
        spec=lambda wildcards: spec("publish", volume=wildcards.volume),
    shell:
        "python -m behindthenoise publish --store {params.store:q} --manifest {output.manifest:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"
