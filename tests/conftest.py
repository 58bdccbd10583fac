import os

# one process for each GPU is the rule outside tests; here several at a time would wait for each other
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
