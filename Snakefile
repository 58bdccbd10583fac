"""Behind the Noise: fast scans and one slow scan in; calibrated, denoised volumes, tokens and a report out."""

import os

from snakemake.utils import min_version

min_version("9.27")


# --configfile takes the place of the default; it is not mixed with it
if not workflow.config_settings.configfiles:

    configfile: os.path.join(workflow.basedir, "config.yaml")


include: "workflow/rules/common.smk"


scattergather:
    share=CONFIG.inference.jobs,
    score=CONFIG.calibration.jobs,


localrules:
    all,


rule all:
    default_target: True
    input:
        f"{R}/report/report.html",
        expand(f"{R}/volumes/{{volume}}.ome.zarr/zarr.json", volume=VOLUMES),


include: "workflow/rules/data.smk"
include: "workflow/rules/ensemble.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/tokens.smk"
include: "workflow/rules/volumes.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/sweep.smk"


onsuccess:
    if os.path.exists(f"{R}/report/report.html"):
        print(f"The report is {os.path.abspath(R)}/report/report.html")
