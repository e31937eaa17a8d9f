import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from local_cloud import PYTHON_VERSION, LocalCloud, wait_until

PROGRAM = """
import sys, time
print("running", *sys.argv[1:], flush=True)
if "fail" in sys.argv:
    sys.exit(4)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def image(cloud: LocalCloud) -> str:
    return cloud.put_image("stack.zip", {"program.py": PROGRAM}, command=["python", "program.py"])


def template(image: str) -> dict[str, Any]:
    """What CDK's FargateTaskDefinition and FargateService emit."""
    log = {
        "LogDriver": "awslogs",
        "Options": {
            "awslogs-group": {"Ref": "LogGroup"},
            "awslogs-stream-prefix": "app",
            "awslogs-region": {"Ref": "AWS::Region"},
        },
    }
    role = {
        "Type": "AWS::IAM::Role",
        "Properties": {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}},
    }
    return {
        "Resources": {
            "Cluster": {
                "Type": "AWS::ECS::Cluster",
                "Properties": {
                    "ClusterName": "stack",
                    "ClusterSettings": [{"Name": "containerInsights", "Value": "disabled"}],
                },
            },
            "LogGroup": {
                "Type": "AWS::Logs::LogGroup",
                "Properties": {"LogGroupName": "/ecs/stack", "RetentionInDays": 7},
            },
            "Role": role,
            "Task": {
                "Type": "AWS::ECS::TaskDefinition",
                "Properties": {
                    "Family": "stacktask",
                    "Cpu": "256",
                    "Memory": "512",
                    "NetworkMode": "awsvpc",
                    "RequiresCompatibilities": ["FARGATE"],
                    "RuntimePlatform": {
                        "CpuArchitecture": "X86_64",
                        "OperatingSystemFamily": "LINUX",
                    },
                    "ExecutionRoleArn": {"Fn::GetAtt": ["Role", "Arn"]},
                    "TaskRoleArn": {"Fn::GetAtt": ["Role", "Arn"]},
                    "Tags": [{"Key": "part", "Value": "test"}],
                    "ContainerDefinitions": [
                        {
                            "Name": "app",
                            "Image": image,
                            "Essential": True,
                            "StopTimeout": 5,
                            "Environment": [{"Name": "VERSION", "Value": "1"}],
                            "PortMappings": [{"ContainerPort": 50051, "Protocol": "tcp"}],
                            "LogConfiguration": log,
                        }
                    ],
                },
            },
            "Service": {
                "Type": "AWS::ECS::Service",
                "DependsOn": ["Role"],
                "Properties": {
                    "Cluster": {"Ref": "Cluster"},
                    "ServiceName": "app",
                    "TaskDefinition": {"Ref": "Task"},
                    "DesiredCount": 1,
                    "LaunchType": "FARGATE",
                    "EnableECSManagedTags": False,
                    "EnableExecuteCommand": False,
                    "HealthCheckGracePeriodSeconds": 60,
                    "DeploymentConfiguration": {
                        "MaximumPercent": 200,
                        "MinimumHealthyPercent": 50,
                        "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
                    },
                    "NetworkConfiguration": {
                        "AwsvpcConfiguration": {
                            "AssignPublicIp": "DISABLED",
                            "Subnets": ["subnet-1"],
                            "SecurityGroups": ["sg-1"],
                        }
                    },
                },
            },
        },
        "Outputs": {
            "ClusterName": {"Value": {"Ref": "Cluster"}},
            "ClusterArn": {"Value": {"Fn::GetAtt": ["Cluster", "Arn"]}},
            "Task": {"Value": {"Ref": "Task"}},
            "Service": {"Value": {"Ref": "Service"}},
            "ServiceName": {"Value": {"Fn::GetAtt": ["Service", "Name"]}},
        },
    }


class DeployError(Exception):
    """The stack did not become complete; the message holds the reasons of all its events."""


class Stack:
    """A stack, deployed through change sets as CDK does it."""

    def __init__(self, cloud: LocalCloud, name: str) -> None:
        self.client = cloud.client("cloudformation")
        self.name = name

    def deploy(self, kind: str, body: dict[str, Any]) -> dict[str, str]:
        change_set = self.client.create_change_set(
            StackName=self.name,
            ChangeSetName=f"change-{time.monotonic_ns()}",
            ChangeSetType=kind,
            TemplateBody=json.dumps(body),
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )["Id"]
        waiter = self.client.get_waiter("change_set_create_complete")
        waiter.wait(ChangeSetName=change_set, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
        self.client.execute_change_set(ChangeSetName=change_set)

        def ended() -> dict[str, Any] | None:
            stack: dict[str, Any] = self.client.describe_stacks(StackName=self.name)["Stacks"][0]
            return None if stack["StackStatus"].endswith("_IN_PROGRESS") else stack

        stack = wait_until(ended, 60, f"{self.name} is deployed")
        if stack["StackStatus"] != f"{kind}_COMPLETE":
            raise DeployError(stack["StackStatus"] + self.reasons())
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def delete(self) -> None:
        self.client.delete_stack(StackName=self.name)
        self.wait("stack_delete_complete")

    def wait(self, what: str) -> None:
        waiter = self.client.get_waiter(what)
        waiter.wait(StackName=self.name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})

    def reasons(self) -> str:
        events = self.client.describe_stack_events(StackName=self.name)["StackEvents"]
        return "\n".join(event.get("ResourceStatusReason", "") for event in events)


def test_a_stack_is_created_updated_and_deleted(cloud: LocalCloud, image: str) -> None:
    ecs = cloud.client("ecs")
    stack = Stack(cloud, "life")
    outputs = stack.deploy("CREATE", template(image))
    assert outputs["ClusterName"] == "stack"
    assert outputs["ClusterArn"].endswith(":cluster/stack")
    assert outputs["Task"].endswith(":task-definition/stacktask:1")
    assert outputs["Service"].endswith(":service/stack/app")
    assert outputs["ServiceName"] == "app"

    def service() -> dict[str, Any]:
        found: dict[str, Any] = ecs.describe_services(cluster="stack", services=["app"])[
            "services"
        ][0]
        return found

    def pids() -> list[int]:
        arns = ecs.list_tasks(cluster="stack", serviceName="app")["taskArns"]
        tasks = ecs.describe_tasks(cluster="stack", tasks=arns)["tasks"] if arns else []
        return [int(task["containers"][0]["runtimeId"]) for task in tasks]

    assert service()["runningCount"] == 1
    assert service()["deploymentConfiguration"]["minimumHealthyPercent"] == 50
    (first,) = pids()
    assert b"VERSION=1" in Path(f"/proc/{first}/environ").read_bytes()
    wait_until(lambda: cloud.log_lines("/ecs/stack") == ["running"], what="a log line")

    # Only the service changes: in place, its task stays.
    body = template(image)
    body["Resources"]["Service"]["Properties"]["DesiredCount"] = 2
    assert stack.deploy("UPDATE", body)["Task"] == outputs["Task"]
    assert first in pids()
    assert len(pids()) == 2

    # The task definition changes: a new revision, the old one goes, all tasks are replaced.
    changed = copy.deepcopy(body)
    container = changed["Resources"]["Task"]["Properties"]["ContainerDefinitions"][0]
    container["Environment"][0]["Value"] = "2"
    assert stack.deploy("UPDATE", changed)["Task"].endswith(":task-definition/stacktask:2")
    assert service()["taskDefinition"].endswith(":2")
    assert len(pids()) == 2
    assert first not in pids()
    assert b"VERSION=2" in Path(f"/proc/{pids()[0]}/environ").read_bytes()
    listed = ecs.list_task_definitions(familyPrefix="stacktask", status="ACTIVE")
    assert [arn.rpartition(":")[2] for arn in listed["taskDefinitionArns"]] == ["2"]

    # An update that can't run fails with its reason, and the service stays as it was.
    broken = copy.deepcopy(changed)
    container = broken["Resources"]["Task"]["Properties"]["ContainerDefinitions"][0]
    container["Command"] = ["python", "program.py", "fail"]
    running = pids()
    with pytest.raises(DeployError, match='"app" with exit code 4'):
        stack.deploy("UPDATE", broken)
    assert set(running) <= set(pids())

    running = pids()
    stack.delete()
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)
    assert not ecs.list_task_definitions(familyPrefix="stacktask")["taskDefinitionArns"]
    assert "stack" not in str(ecs.list_clusters()["clusterArns"])


def test_a_failing_init_container_fails_the_deploy_with_its_reason(
    cloud: LocalCloud, image: str
) -> None:
    body = template(image)
    properties = body["Resources"]["Task"]["Properties"]
    (app,) = properties["ContainerDefinitions"]
    init = {
        **app,
        "Name": "migrate",
        "Essential": False,
        "Command": ["python", "program.py", "fail"],
    }
    init.pop("PortMappings")
    app["DependsOn"] = [{"ContainerName": "migrate", "Condition": "SUCCESS"}]
    properties["ContainerDefinitions"] = [app, init]
    stack = Stack(cloud, "badinit")
    with pytest.raises(DeployError, match='container "migrate" ended with exit code 4'):
        stack.deploy("CREATE", body)
    services = cloud.client("ecs").describe_services(cluster="stack", services=["app"])["services"]
    assert all(each["runningCount"] == 0 for each in services)
    stack.delete()
    assert stack.deploy("CREATE", template(image))["ServiceName"] == "app"
    stack.delete()


def test_what_else_a_deployment_needs_is_supported(cloud: LocalCloud) -> None:
    """Types that CDK emits beside ECS; LocalStack must not pretend to create any of them."""
    function = {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "Runtime": f"python{PYTHON_VERSION}",
            "Handler": "index.handler",
            "Role": {"Fn::GetAtt": ["Role", "Arn"]},
            "Code": {"ZipFile": "def handler(e, c):\n  return {'statusCode': 200, 'body': 'ok'}"},
        },
    }
    uri = (
        "arn:aws:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${Function.Arn}"
        "/invocations"
    )
    method = {
        "Type": "AWS::ApiGateway::Method",
        "Properties": {
            "RestApiId": {"Ref": "Api"},
            "ResourceId": {"Fn::GetAtt": ["Api", "RootResourceId"]},
            "HttpMethod": "GET",
            "AuthorizationType": "NONE",
            "Integration": {
                "Type": "AWS_PROXY",
                "IntegrationHttpMethod": "POST",
                "Uri": {"Fn::Sub": uri},
            },
        },
    }
    body = {
        "Resources": {
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {"AssumeRolePolicyDocument": {"Statement": []}},
            },
            "Function": function,
            "Permission": {
                "Type": "AWS::Lambda::Permission",
                "Properties": {
                    "FunctionName": {"Ref": "Function"},
                    "Action": "lambda:InvokeFunction",
                    "Principal": "apigateway.amazonaws.com",
                },
            },
            "Api": {
                "Type": "AWS::ApiGateway::RestApi",
                "Properties": {
                    "Name": "typed",
                    "Tags": [{"Key": "_custom_id_", "Value": "typedapi"}],
                },
            },
            "Method": method,
            "Answer": {
                "Type": "AWS::ApiGateway::GatewayResponse",
                "Properties": {
                    "RestApiId": {"Ref": "Api"},
                    "ResponseType": "MISSING_AUTHENTICATION_TOKEN",
                    "StatusCode": "404",
                    "ResponseTemplates": {"application/problem+json": '{"code":"not_found"}'},
                },
            },
            "Deployment": {
                "Type": "AWS::ApiGateway::Deployment",
                "DependsOn": ["Method", "Answer"],
                "Properties": {"RestApiId": {"Ref": "Api"}},
            },
            "Stage": {
                "Type": "AWS::ApiGateway::Stage",
                "Properties": {
                    "RestApiId": {"Ref": "Api"},
                    "DeploymentId": {"Ref": "Deployment"},
                    "StageName": "local",
                },
            },
            "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}},
            "Subnet": {
                "Type": "AWS::EC2::Subnet",
                "Properties": {"VpcId": {"Ref": "Vpc"}, "CidrBlock": "10.0.0.0/24"},
            },
            "Group": {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {"GroupDescription": "g", "VpcId": {"Ref": "Vpc"}},
            },
            "Parameter": {
                "Type": "AWS::SSM::Parameter",
                "Properties": {"Name": "/typed", "Type": "String", "Value": "v"},
            },
            "Secret": {
                "Type": "AWS::SecretsManager::Secret",
                "Properties": {"Name": "typed", "SecretString": "v"},
            },
            "LogGroup": {
                "Type": "AWS::Logs::LogGroup",
                "Properties": {"LogGroupName": "/aws/lambda/typed"},
            },
            "Metadata": {"Type": "AWS::CDK::Metadata", "Properties": {"Analytics": "v2"}},
        },
        "Outputs": {"Api": {"Value": {"Ref": "Api"}}},
    }
    stack = Stack(cloud, "typed")
    assert stack.deploy("CREATE", body) == {"Api": "typedapi"}
    stack.delete()
