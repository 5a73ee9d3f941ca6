from dira_scale.shard import main

if __name__ == "__main__":
    raise SystemExit(main())
