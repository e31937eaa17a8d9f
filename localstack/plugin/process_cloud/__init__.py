"""LocalStack plugin: Lambda functions and ECS tasks as local processes, without containers."""
