from dira_scale.plan import main

if __name__ == "__main__":
    raise SystemExit(main())
