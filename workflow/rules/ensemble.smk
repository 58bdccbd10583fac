"""One network per member: its graph, its training, its predictions; then the average."""


rule wire:
    input:
        manifest=f"{R}/pairs.json",
    output:
        graph=f"{R}/members/{{member}}/graph.json",
    log:
        f"{LOGS}/wire/{{member}}.log",
    benchmark:
        f"{BENCHMARKS}/wire/{{member}}.tsv"
    # on a cluster, not worth a job
    localrule: True
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("wire"),
    params:
        spec=spec("wire"),
    shell:
        "python -m behindthenoise wire --member {wildcards.member} --pairs {input.manifest:q} --graph {output.graph:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"


rule train:
    input:
        manifest=f"{R}/pairs.json",
        token=f"{R}/pairs.zarr/zarr.json",
        graph=f"{R}/members/{{member}}/graph.json",
    output:
        manifest=f"{R}/members/{{member}}/train.json",
        weights=f"{R}/members/{{member}}/weights.safetensors",
        history=f"{R}/members/{{member}}/history.csv",
    log:
        f"{LOGS}/train/{{member}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{member}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: CONFIG.training.threads
    resources:
        **needs("train"),
        gpu=1,
        mem_mb=memory_mb(CONFIG.training.memory_gb),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        spec=spec("train"),
        # Snakemake does not compare what depends on `output`: more memory, another share of a GPU, or a coverage that may be
        # promised after all, trains nothing again.
        # (A rule of its own as `ancient` input would hide from Snakemake that the parameters of what follows it have changed.)
        check=lambda wildcards, output: spec("check"),
        memory_gb=lambda wildcards, output: CONFIG.training.memory_gb,
        members_per_gpu=lambda wildcards, output: CONFIG.training.members_per_gpu,
    shell:
        "(python -m behindthenoise check --pairs {input.manifest:q} --graph {input.graph:q} --spec {params.check:q};"
        " python -m behindthenoise train --member {wildcards.member} --pairs {params.pairs:q} --graph {input.graph:q}"
        " --weights {output.weights:q} --history {output.history:q} --manifest {output.manifest:q}"
        " --memory-gb {params.memory_gb} --members-per-gpu {params.members_per_gpu} --spec {params.spec:q}) > {log:q} 2>&1"


rule predict:
    input:
        manifest=f"{R}/pairs.json",
        train=f"{R}/members/{{member}}/train.json",
        graph=f"{R}/members/{{member}}/graph.json",
        weights=f"{R}/members/{{member}}/weights.safetensors",
        volumes=expand(f"{R}/volumes/{{volume}}/input.json", volume=CONFIG.tokens.fit_also_on),
    output:
        manifest=f"{R}/members/{{member}}/predict.json",
        latents=f"{R}/members/{{member}}/latents.npz",
        token=f"{R}/members/{{member}}/heldout.zarr/zarr.json",
    log:
        f"{LOGS}/predict/{{member}}.log",
    benchmark:
        f"{BENCHMARKS}/predict/{{member}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: CONFIG.inference.threads
    resources:
        **needs("predict"),
        gpu=1,
        mem_mb=memory_mb(CONFIG.inference.memory_gb),
    params:
        pairs=placed(f"{R}/pairs.zarr"),
        store=placed(f"{R}/members/{{member}}/heldout.zarr"),
        volumes=placed(expand(f"{R}/volumes/{{volume}}/input.zarr", volume=CONFIG.tokens.fit_also_on)),
        spec=spec("predict"),
    shell:
        "python -m behindthenoise predict --pairs {params.pairs:q} --volumes {params.volumes:q} --graph {input.graph:q}"
        " --weights {input.weights:q} --store {params.store:q} --latents {output.latents:q} --manifest {output.manifest:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"


rule average:
    input:
        manifests=of_members("predict.json"),
        tokens=of_members("heldout.zarr/zarr.json"),
    output:
        manifest=f"{R}/ensemble/average.json",
        token=f"{R}/ensemble/heldout.zarr/zarr.json",
    log:
        f"{LOGS}/average.log",
    benchmark:
        f"{BENCHMARKS}/average.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: PASS_THREADS
    resources:
        **needs("average"),
    params:
        members=placed(of_members("heldout.zarr")),
        store=placed(f"{R}/ensemble/heldout.zarr"),
        spec=spec("average"),
    shell:
        "python -m behindthenoise average --members {params.members:q} --store {params.store:q}"
        " --manifest {output.manifest:q} --spec {params.spec:q} > {log:q} 2>&1"
