"""How clients reach the box: its address, and the configuration files of agents."""
