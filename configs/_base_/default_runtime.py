# How any run of these configs goes about, on CUDA where there is one and on the CPU elsewhere.
default_scope = 'mmpretrain'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmeffnet.CheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
    exact_resume=dict(type='mmeffnet.ExactResumeHook'),
    plain_checkpoint=dict(type='mmeffnet.PlainCheckpointHook'),
    any_weights=dict(type='mmeffnet.AnyWeightsHook'),
    samples=dict(type='mmeffnet.SamplesHook', max_skips=0),
    non_finite=dict(type='mmeffnet.NonFiniteHook', max_skips=0),
    sigterm=dict(type='mmeffnet.SigtermHook'),
    changed_recipe=dict(type='mmeffnet.ChangedRecipeHook'),
    pictures=dict(type='mmeffnet.PicturesHook'),
    progress=dict(type='mmeffnet.ProgressHook'),
)

# An import statement would turn this into a config of MMEngine's other style.
_cuda = __import__('torch').cuda.is_available()

env_cfg = dict(
    cudnn_benchmark=True,  # the input size does not change
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl' if _cuda else 'gloo'),
)
del _cuda

# Local files, and TensorBoard where it is installed. Others by one line, here or in a config
# that inherits this: visualizer = dict(vis_backends='WandbVisBackend')
visualizer = dict(type='mmeffnet.RunVisualizer')

log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
