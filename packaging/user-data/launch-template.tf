# Instances that learn what they run from their tags. The role must allow ssm:GetParameter on the broker's password;
# whoever may tag the instances decides what they deploy.
resource "aws_launch_template" "web" {
  name_prefix   = "web-"
  image_id      = var.image_id
  instance_type = "t3.small"
  user_data     = filebase64("${path.module}/bootstrap.sh") # or cloud-config.yaml

  iam_instance_profile {
    name = var.instance_profile
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required" # IMDSv2 only, which is all that the agent speaks
    http_put_response_hop_limit = 1          # 2 where the agent runs in a container
    instance_metadata_tags      = "enabled"
  }

  tag_specifications {
    resource_type = "instance"
    tags = {
      "Name"                       = "web"
      "instance-agent:environment" = "production"
      "instance-agent:app:shop"    = "octocat/shop@main=shop.service"
      "instance-agent:app:hello"   = "octocat/hello=hello.service"
    }
  }
}

variable "image_id" {
  type = string
}

variable "instance_profile" {
  type = string
}
