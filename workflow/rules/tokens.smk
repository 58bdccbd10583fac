"""From sampled latents to the embedding and its tokens."""


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
    log:
        f"{LOGS}/tokenize.log",
    benchmark:
        f"{BENCHMARKS}/tokenize.tsv"
    conda:
        "../../envs/behindthenoise.yaml"
    params:
        spec=spec("tokenize"),
    shell:
        "python -m behindthenoise tokenize --latents {input.latents:q} --projection {input.projection:q}"
        " --tokens {output.tokens:q} --spec {params.spec:q} > {log:q} 2>&1"
