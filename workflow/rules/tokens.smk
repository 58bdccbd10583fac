"""From latents to the embedding and its tokens, and the token of every held-out voxel."""


rule embed:
    input:
        latents=of_members("latents.npz"),
    output:
        projection=f"{R}/latents/projection.npz",
    log:
        f"{LOGS}/embed.log",
    benchmark:
        f"{BENCHMARKS}/embed.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("embed"),
    params:
        spec=spec("embed"),
    shell:
        "python -m behindthenoise embed --latents {input.latents:q} --projection {output.projection:q}"
        " --spec {params.spec:q} > {log:q} 2>&1"


rule tokenize:
    input:
        latents=of_members("latents.npz"),
        projection=f"{R}/latents/projection.npz",
    output:
        tokens=f"{R}/latents/tokens.npz",
        stability=f"{R}/latents/stability.csv",
        table=f"{R}/latents/tokens.csv",
    log:
        f"{LOGS}/tokenize.log",
    benchmark:
        f"{BENCHMARKS}/tokenize.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("tokenize"),
    params:
        spec=spec("tokenize"),
    shell:
        "python -m behindthenoise tokenize --latents {input.latents:q} --projection {input.projection:q}"
        " --tokens {output.tokens:q} --stability {output.stability:q} --table {output.table:q} --spec {params.spec:q} > {log:q} 2>&1"


rule describe:
    input:
        finish=f"{R}/volumes/{{volume}}/finish.json",
        geometry=f"{R}/volumes/{{volume}}/geometry.json",
        known=f"{R}/latents/tokens.csv",
        evaluate=f"{R}/evaluation/evaluate.json",
    output:
        manifest=f"{R}/volumes/{{volume}}/describe.json",
        tables=report(
            expand(
                f"{R}/volumes/{{{{volume}}}}/{{table}}.csv",
                table=["tokens", *(["classes", "class_regions"] if CONFIG.tokens.classes else [])],
            ),
            category="Volumes",
            subcategory="{volume}",
        ),
    log:
        f"{LOGS}/describe/{{volume}}.log",
    benchmark:
        f"{BENCHMARKS}/describe/{{volume}}.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("describe"),
    params:
        finished=placed(f"{R}/volumes/{{volume}}.ome.zarr"),
        coverage=placed(f"{R}/evaluation/tokens.csv"),
        folder=placed(f"{R}/volumes/{{volume}}"),
        spec=spec("describe"),
    shell:
        "python -m behindthenoise describe --finished {params.finished:q} --geometry {input.geometry:q} --known {input.known:q}"
        " --coverage {params.coverage:q} --folder {params.folder:q} --manifest {output.manifest:q} --spec {params.spec:q} > {log:q} 2>&1"


rule label:
    input:
        manifests=of_members("predict.json"),
        latents=of_members("heldout.zarr/zarr.json"),
        projection=f"{R}/latents/projection.npz",
        tokens=f"{R}/latents/tokens.npz",
    output:
        manifest=f"{R}/ensemble/label.json",
        token=f"{R}/ensemble/tokens.zarr/zarr.json",
    log:
        f"{LOGS}/label.log",
    benchmark:
        f"{BENCHMARKS}/label.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    threads: 1
    resources:
        **needs("label"),
    params:
        members=placed(of_members("heldout.zarr")),
        store=placed(f"{R}/ensemble/tokens.zarr"),
        spec=spec("label"),
    shell:
        "python -m behindthenoise label --members {params.members:q} --projection {input.projection:q}"
        " --tokens {input.tokens:q} --store {params.store:q} --manifest {output.manifest:q} --spec {params.spec:q} > {log:q} 2>&1"
