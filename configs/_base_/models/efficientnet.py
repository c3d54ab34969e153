# One classifier for every variant: a child names the variant in `backbone` and `head`.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmeffnet.EfficientNet', arch='b0'),
    neck=dict(type='GlobalAveragePooling'),
    # Width of the features and dropout follow the variant.
    head=dict(
        type='mmeffnet.EfficientNetHead',
        arch='b0',
        num_classes=1000,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
)
